"""`python -m keras_dlrm.cli`."""

from keras_dlrm.cli import main

main()
