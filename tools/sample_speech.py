"""Speak the two sentences of data_samples with espeak-ng, and write down when each phone is spoken.

    python tools/sample_speech.py            # compare with what data_samples holds
    python tools/sample_speech.py --write    # write the wav files and sample_phones.json again

Needs the library libespeak-ng (Debian: apt-get install libespeak-ng1); the same version gives the same samples.
Both sentences are spoken by one engine, the clip's first: its noise source goes on from where the last sentence
left it."""
import argparse, ctypes, json
from pathlib import Path
import numpy as np
from scipy.io import wavfile
from scipy.signal import resample_poly

FOLDER = Path(__file__).resolve().parents[1]/'data_samples'
# Text -> sound, its phones, seconds
FILES = dict(text=('sample_speech.wav', 'phones', 12.), driving_text=('driving.wav', 'driving_phones', 6.))
# Words a minute; silence before the first word, s; samples a second
VOICE, SPEED, LEAD, RATE = b'en-us+f4', 158, .28, 16000
# espeak-ng's numbers
PHONEME, SYNCHRONOUS, PHONEME_EVENTS, UTF8, SPEED_SETTING, LIST_END = 7, 2, 1, 1, 1, 0


class Name(ctypes.Union): _fields_ = [('number', ctypes.c_int), ('name', ctypes.c_char_p), ('string', ctypes.c_char*8)]

class Event(ctypes.Structure):
    _fields_ = [('type', ctypes.c_int), ('uid', ctypes.c_uint), ('text_position', ctypes.c_int),
                ('length', ctypes.c_int), ('audio_position', ctypes.c_int), ('sample', ctypes.c_int),
                ('user_data', ctypes.c_void_p), ('id', Name)]

class Speaker:
    "espeak-ng, with the moments at which its phones begin"
    def __init__(self):
        self.lib = ctypes.CDLL('libespeak-ng.so.1')
        self.rate = self.lib.espeak_Initialize(SYNCHRONOUS, 0, None, PHONEME_EVENTS)
        if self.rate <= 0: raise RuntimeError('espeak-ng has no voices: install its data (Debian: espeak-ng-data)')
        callback = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.POINTER(Event))
        self.hear = callback(self.take)
        self.lib.espeak_SetSynthCallback(self.hear)

    def take(self, sound, n, events):
        if sound and n: self.wave.append(np.ctypeslib.as_array(sound, (n,)).copy())
        i = 0
        while events[i].type!=LIST_END:
            if events[i].type==PHONEME: self.begins.append((events[i].id.string.decode(), events[i].sample/self.rate))
            i += 1
        return 0

    def __call__(self, text): # wave int16 at self.rate, [(phone or pause, its begin in s)]
        self.wave, self.begins, data = [], [], text.encode()
        self.lib.espeak_SetVoiceByName(VOICE)
        self.lib.espeak_SetParameter(SPEED_SETTING, SPEED, 0)
        self.lib.espeak_Synth(data, len(data)+1, 0, 0, 0, UTF8, None, None)
        self.lib.espeak_Synchronize()
        return np.concatenate(self.wave), self.begins


def sentence(speak, text, seconds):
    "Sound int16 [seconds*RATE] and phones [(phone, start s, end s)]; pauses are left out"
    wave, begins = speak(text)
    wave = resample_poly(wave/32768, 320, round(320*speak.rate/RATE))
    wave = np.r_[np.zeros(int(LEAD*RATE)), wave*.7/abs(wave).max(), np.zeros(int(seconds*RATE))][:int(seconds*RATE)]
    ends = [b for _,b in begins[1:]]+[begins[-1][1]+.1]
    phones = [[p, round(a+LEAD, 3), round(b+LEAD, 3)]
              for (p,a),b in zip(begins, ends) if b-a>1e-3 and p and not p.startswith('_')]
    return np.floor(wave.astype(np.float32)*32768).astype(np.int16), phones

def main(write=False):
    about, speak, same = json.loads((FOLDER/'sample_phones.json').read_text()), Speaker(), {}
    for text,(name, key, seconds) in FILES.items():
        wave, phones = sentence(speak, about[text], seconds)
        kept = wavfile.read(FOLDER/name)[1]
        same[name] = bool(len(kept)==len(wave) and abs(kept.astype(int)-wave).max()<=1)
        same[key] = about.get(key)==phones
        about[key] = phones
        if write: wavfile.write(FOLDER/name, RATE, wave)
    if write: (FOLDER/'sample_phones.json').write_text(json.dumps(about, ensure_ascii=False))
    return same

if __name__=='__main__':
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--write', action='store_true', help='write the files again')
    print(main(parser.parse_args().write))
