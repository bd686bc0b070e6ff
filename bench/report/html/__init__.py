"""The HTML report, the page of a comparison and the page of a plan, each one self-contained file."""
