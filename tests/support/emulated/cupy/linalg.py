"""Only there to be imported: nothing here is used on a device."""

from numpy.linalg import cholesky, eigh, lstsq, norm, pinv, qr, slogdet, svd

__all__ = ["cholesky", "eigh", "lstsq", "norm", "pinv", "qr", "slogdet", "svd"]
