"""``fastgw gpu-exporter``: what NVIDIA's driver says of the GPUs of this machine, as Prometheus reads it."""
