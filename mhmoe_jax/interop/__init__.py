"""Models of other people in, ours out, and new models made of old ones.

Safetensors of Hugging Face's Llama, Mixtral, OLMoE and Qwen3-MoE, and a layout of our
own for what those cannot express. Local folders only; the numbers are read and written
a tensor at a time.
"""
