"""Formulations of a task for a model: a head, label scoring, generation, language modelling."""
