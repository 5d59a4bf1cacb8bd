"""When more experts fail: kinematic probabilities, their bounds, and thresholds T*."""
