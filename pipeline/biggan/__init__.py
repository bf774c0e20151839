"""The class-conditional BigGAN and its principal directions."""
