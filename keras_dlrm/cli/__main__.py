from keras_dlrm.cli import main

main()
