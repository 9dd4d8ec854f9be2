#!/bin/sh
# Put the CUDA builds of ONNX Runtime in the place of the CPU ones: tools/cuda.sh FOLDER
#
# Both hold files of the same names, so the CPU builds go first, and the CUDA builds are then installed anew.
# The versions fit each other: all three are linked to CUDA 13, and bring it with them (about 2 GB).
set -eu
pip() { "$1/bin/python" -m pip --disable-pip-version-check "$2" -q $3; }
runtime="onnxruntime-gpu==1.31.1 onnxruntime-genai-cuda==0.18.0"
pip "$1" uninstall "-y onnxruntime onnxruntime-genai onnxruntime-gpu onnxruntime-genai-cuda"
pip "$1" install "-c constraints.txt -e .[cuda]"
pip "$1" uninstall "-y onnxruntime onnxruntime-genai"
pip "$1" install "--force-reinstall --no-deps $runtime"
