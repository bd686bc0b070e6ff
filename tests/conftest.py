"""What all tests share: ``factories`` can be imported from any of them, under pytest's importlib mode too."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
