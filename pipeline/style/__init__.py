"""Style transfer, and the networks that measure content and style."""
