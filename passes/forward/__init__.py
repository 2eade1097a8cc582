"""From a captured program to the forward graph, and to the value in it that is explained."""
