"""Speed and memory of speech features: `python benchmarks/speech.py [--minutes 2] [--device cpu] [--hour] [--models ...]`

One row a model: seconds of speech per second of work, and the highest memory of the process beyond what it held before (each model in its own process).
`--hour` runs an hour of speech, to show that memory grows only with the sound itself (230 MB) and its features."""
import argparse, json, resource, subprocess, sys, time

MODELS = ('mel', 'openai/whisper-tiny.en', 'ave')

def measure(name, minutes, device):
    "Speed (multiple of real time) and memory (MB) of one model, in this process"
    import numpy as np, torch
    from syncgaussian.speech import AudioVisualEncoder, SpeechFeatures, ave_features
    from syncgaussian.speech.text import babble
    wave = np.tile(babble(30, np.random.default_rng(0)), int(minutes*2))
    if name == 'ave': model = AudioVisualEncoder().to(device).eval()
    else: extractor = SpeechFeatures(name, device)
    run = (lambda w: ave_features(model, w)) if name == 'ave' else extractor
    run(wave[:16000*4])
    before, began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss/1024, time.perf_counter()
    shape = run(wave).shape
    seconds = time.perf_counter() - began
    return dict(model=name, device=device, threads=torch.get_num_threads(), minutes=minutes, features=list(shape), seconds=round(seconds, 2), times_real_time=round(60*minutes/seconds, 1),
                sound_mb=round(wave.nbytes/2**20), more_mb=round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss/1024 - before), gpu_mb=round(torch.cuda.max_memory_allocated()/2**20) if device != 'cpu' else 0)

if __name__ == '__main__':
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--minutes', type=float, default=1); p.add_argument('--device', default='cpu'); p.add_argument('--hour', action='store_true')
    p.add_argument('--models', nargs='+', default=MODELS); p.add_argument('--one', help=argparse.SUPPRESS)
    a = p.parse_args()
    minutes = 60 if a.hour else a.minutes
    if a.one: print(json.dumps(measure(a.one, minutes, a.device)))
    else:
        for name in a.models: print(subprocess.run([sys.executable, __file__, '--one', name, '--minutes', str(minutes), '--device', a.device], capture_output=True, text=True, check=True).stdout.strip().splitlines()[-1], flush=True)
