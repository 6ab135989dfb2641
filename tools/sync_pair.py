"""Train the audio-visual pair (speech and lips) from talking videos, with speakers held out, as the shipped pair was.

    python tools/sync_pair.py VIDEO... --hold-out NAME NAME --seconds 75 --device cuda --out out/sync_pair
    python tools/sync_pair.py VIDEO... --hold-out NAME --cross-validate    # then every speaker is held out once

A speaker is what stands before the first `_clip` of a file's name (Obama_clip1.mp4, Obama_clip2.mp4: one speaker).
Sound lies in the video, or beside it as a wav. Writes OUT/sync_pair.safetensors (load it with `load_sync_pair`) and
OUT/sync_pair.json (accuracy on speakers that were never seen). Extracted clips are kept in OUT/clips.
"""
import argparse, json, time
from pathlib import Path
import torch
from syncgaussian.clip import prepare_clip
from syncgaussian.speech.sound import cut
from syncgaussian.speech.sync_pair import (
    SyncClip, ave_features, lip_features, offset_accuracy, save_sync_pair, sync_clip, sync_scores,
    train_audio_visual_encoder)

SPEEDS = (.84, .92, 1.09, 1.19)


def extract(video:Path, cache:Path)->SyncClip:
    "Mouth crops, mouth shape and speech of a video's longest shot, at 25 frames a second; a wav beside it is its sound"
    beside = video.with_suffix('.wav')
    clip = prepare_clip(video, cache/video.stem, size=256, sound=beside if beside.exists() else None)
    return sync_clip(clip)._replace(name=video.stem)


def speaker(name): return name.split('_clip')[0]

def fit(train, a, seconds):
    return train_audio_visual_encoder(train, seconds=seconds, device=a.device, seed=a.seed, batch=a.batch,
                                      speeds=a.speeds, progress=True)

def heard(model, lips, clip):
    with torch.no_grad(): return lips.hear(torch.from_numpy(ave_features(model, clip.wave, normalise=False)[:,0]))

def own_offsets(clips, folds, a):
    "Each recording's own offset, as a pair hears it that never saw the speaker; 0 where it is not sure"
    offsets = {}
    for held in folds:
        model, lips, _ = fit([c for c in clips if speaker(c.name) not in held], a, a.seconds/4)
        for c in (c for c in clips if speaker(c.name) in held):
            s = sync_scores(heard(model, lips, c), lip_features(lips, c.crops))
            offsets[c.name] = s.offset if abs(s.offset)<=4 and s.confidence>.03 else 0
    return offsets

def shift(clip, offset): return clip._replace(wave=cut(clip.wave, offset*640, len(clip.wave)))

def score(model, lips, clip, offset, raw):
    "A row of the table: one recording of a speaker that was held out"
    s = sync_scores(heard(model, lips, clip), lip_features(lips, clip.crops))
    return dict(held=clip.name, accuracy=offset_accuracy(model, lips, clip),
                accuracy_raw=offset_accuracy(model, lips, raw), own_offset=offset, offset=s.offset,
                confidence=s.confidence, distance=s.distance, acc_1s=offset_accuracy(model, lips, clip, window=25),
                acc_2s=offset_accuracy(model, lips, clip, window=50))


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('videos', nargs='+', type=Path)
    p.add_argument('--hold-out', nargs='+', required=True, help='speakers that judge the pair')
    p.add_argument('--cross-validate', action='store_true')
    p.add_argument('--seconds', type=float, default=75.)
    p.add_argument('--device', default='cuda' if torch.cuda.is_available() else 'cpu')
    p.add_argument('--batch', type=int, default=16)
    p.add_argument('--speeds', type=float, nargs='*', default=SPEEDS)
    p.add_argument('--seed', type=int, default=0)
    p.add_argument('--out', type=Path, default=Path('out/sync_pair'))
    a = p.parse_args()
    clips = [extract(v, a.out/'clips') for v in a.videos]
    speakers = {speaker(c.name) for c in clips}
    others = sorted(speakers-set(a.hold_out))
    if not others or set(a.hold_out)-speakers:
        raise SystemExit(f'--hold-out names {a.hold_out}; the speakers are {sorted(speakers)}, '
                         'and some must be left to learn from')
    folds = [a.hold_out] + [others[i::-(-len(others)//2)] for i in range(-(-len(others)//2))]
    offsets, raw = own_offsets(clips, folds, a), {c.name:c for c in clips}
    clips, table, began = [shift(c, offsets[c.name]) for c in clips], [], time.time()
    for held in folds if a.cross_validate else folds[:1]:
        train = [c for c in clips if speaker(c.name) not in held]
        model, lips, history = fit(train, a, a.seconds)
        rows = [score(model, lips, c, offsets[c.name], raw[c.name]) | dict(steps=len(history))
                for c in clips if speaker(c.name) in held]
        table += rows
        if held is folds[0]:
            card = dict(trained_on=[c.name for c in train], held_out=list(held), steps=len(history),
                        speeds=list(a.speeds), seconds_of_speech=round(sum(len(c.crops) for c in train)/25, 1),
                        table=table[:])
            save_sync_pair(a.out/'sync_pair.safetensors', model, lips, card)
        for r in rows: print({k:round(v, 3) if isinstance(v, float) else v for k, v in r.items()}, flush=True)
    about = dict(args={k:str(v) for k, v in vars(a).items() if k!='videos'}, offsets=offsets, table=table,
                 seconds=round(time.time()-began, 1))
    (a.out/'sync_pair.json').write_text(json.dumps(about, indent=1))


if __name__=='__main__': main()
