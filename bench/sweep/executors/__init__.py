"""Where runs are carried out: local worker processes, Ray, Slurm."""
