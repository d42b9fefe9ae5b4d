"""Complete robustness verification by bound propagation and branch and bound (beta-CROWN, arXiv 2103.06624)."""
