"""The only room that knows a diffusers architecture."""
