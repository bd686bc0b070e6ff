"""Runs that are trained together over one frozen backbone, and the features that they share."""
