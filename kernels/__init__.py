"""The CUDA C++ kernel files, one .cu for each family of ops."""
