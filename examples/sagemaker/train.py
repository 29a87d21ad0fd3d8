"""The entry point of a training job: ``entry_point="train.py"`` of an Estimator or ModelTrainer."""

from tfserve.job import main

if __name__ == "__main__":
    main()
