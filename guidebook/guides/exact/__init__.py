"""Posteriors known in closed form, by enumeration or by quadrature."""
