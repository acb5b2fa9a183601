"""Jobs that run elsewhere: Ray clusters, Kubernetes, Slurm."""
