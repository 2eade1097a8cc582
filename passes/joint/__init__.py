"""Both graphs in one: spliced, taken apart, made a program of, stored."""
