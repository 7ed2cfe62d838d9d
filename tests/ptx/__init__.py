"""CUDA C++ kernels on the CPU, thread by thread: NVRTC's PTX, interpreted with NumPy over the threads of a cluster."""
