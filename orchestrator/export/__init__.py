"""Jobs as files for other schedulers: a KubeRay manifest, a Slurm batch script."""
