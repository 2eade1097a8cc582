"""What each op is to the rules: the M of R + M."""
