"""The networks of the method: tensors to tensors. Only weights.py reads and writes files (and pretrained_encoder.py, through
transformers).
"""
