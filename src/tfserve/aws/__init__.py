"""Amazon SageMaker from a notebook; what is here imports boto3 when it is called."""
