"""What everything else measures: architectures with random weights, and pretrained networks with their data."""
