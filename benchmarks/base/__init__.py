"""What every room uses: where things lie, processes of their own, tables that change whole or not at all."""
