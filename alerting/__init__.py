"""What is done about findings: alerts and their life cycle, delivery, the labeling queue, retraining."""
