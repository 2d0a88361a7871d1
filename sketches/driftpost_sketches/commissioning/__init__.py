"""Learning a normal on the spot: ranges first, then how rows follow each other, then a calibration."""
