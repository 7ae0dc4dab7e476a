import sys

from mhmoe_jax.cli import main

sys.exit(main())
