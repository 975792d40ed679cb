"""The networks of the method: tensors to tensors, no files and no devices; weights.py alone reads and writes them."""
