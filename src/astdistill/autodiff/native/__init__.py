"""Hand-written derivatives of the instance-norm ConvNet on a CPU."""
