"""What is written to the output folder, and how it is read back."""
