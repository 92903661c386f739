"""What every peer and every column of the benchmark needs: namespaces, processes, traffic, report."""
