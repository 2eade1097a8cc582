"""How long an explanation takes and where its time goes, beside the forward and beside the peers."""
