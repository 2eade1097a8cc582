"""Who is measured by speed.py: each module has `make(name, case, folder, threads)`, which returns `inputs → result`."""
