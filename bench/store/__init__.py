"""The record of one run, its schema, and the folder that holds the records of many."""
