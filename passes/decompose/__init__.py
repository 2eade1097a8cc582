"""Every way in which an op is written out in simpler ones."""
