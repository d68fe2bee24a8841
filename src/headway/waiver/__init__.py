"""Waivers: tokens that soak up attention; who they are, why, and what to do with them."""
