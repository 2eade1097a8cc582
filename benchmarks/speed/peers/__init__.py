"""Who is measured: each module has `make(name, case, folder, threads)`, which returns `inputs → result`."""
