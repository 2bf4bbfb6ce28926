"""Ray and DeepSpeed: the only package, with `service`, that imports them."""
