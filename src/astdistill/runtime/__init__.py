"""Foundation of all other packages; independent of dataset distillation."""
