"""The bundled miniature universe: a procedural world, small networks of the real classes, and how they are trained."""
