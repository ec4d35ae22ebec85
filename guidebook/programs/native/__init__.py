"""A recorded graph as native code: its fused kernels in one library, called without Python."""
