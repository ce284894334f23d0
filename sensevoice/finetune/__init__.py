"""What training and fine-tuning have in common: data sets, batches, masking, losses and scores."""
