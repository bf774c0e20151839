"""What every network needs: weights from files, and kernels."""
