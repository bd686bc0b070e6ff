"""How a task is put to a model: a head, label scoring, generation, language modelling."""
