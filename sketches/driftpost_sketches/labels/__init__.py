"""What labels and predicted classes tell: errors, calibration, class mix, and accuracy without labels."""
