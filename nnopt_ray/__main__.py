"""`python -m nnopt_ray` is the program `nnopt`."""

from nnopt_ray.cli.main import main

main()
