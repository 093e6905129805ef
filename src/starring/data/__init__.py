"""Photographs, captions, masks, crops, clips and prompts. This room imports torch, PIL and av, and no model."""
