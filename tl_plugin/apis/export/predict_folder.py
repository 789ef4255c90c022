"""Label images with the ONNX file beside this one: needs onnxruntime, numpy and Pillow alone.

    python FILE.py IMAGES... [--out predictions.csv]

IMAGES are files and folders, which are searched with all that is inside. Each image is a row: its
path, an empty label for a person to fill in, the likeliest class and its probability, the next
ones, and why it couldn't be read where it couldn't be: those columns of tl_plugin's predict tool
that need nothing but the network.
"""

import argparse
import csv
import json
import os
import sys
from pathlib import Path

import numpy as np
import onnxruntime
from PIL import Image, ImageOps

EXTENSIONS = (
    '.jpg',
    '.jpeg',
    '.jpe',
    '.jfif',
    '.png',
    '.bmp',
    '.ppm',
    '.pgm',
    '.pbm',
    '.pnm',
    '.tif',
    '.tiff',
    '.webp',
    '.gif',
    '.jp2',
    '.avif',
)
#: Images at a time, where the file takes several, and their pixels together: photographs of a
#: camera would fill the memory of a small device.
BATCH, PIXELS = 32, 32 * 512 * 512


class Classifier:
    """An exported network.

    Args:
        path: An ONNX file that tl_plugin wrote, with the preprocessing in it.
        threads: 0 for as many as there are cores. Defaults to 0.
    """

    def __init__(self, path, threads=0):
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        # Warnings on fused nodes are not for who labels images.
        options.log_severity_level = 3
        self.session = onnxruntime.InferenceSession(
            str(path), options, providers=onnxruntime.get_available_providers()
        )
        about = self.session.get_modelmeta().custom_metadata_map
        if 'input' not in about:
            raise ValueError(f'{path} has no metadata of tl_plugin: write it with tools/export.py')
        self.input = json.loads(about['input'])
        if self.input['dtype'] != 'uint8':
            raise ValueError(
                f'{path} was written without preprocessing and takes normalised tensors: write it '
                'without --no-preprocessing'
            )
        self.classes = json.loads(about['classes'])
        self.at_once = BATCH if self.input['any_number'] else 1

    def read(self, path):
        """Return the pixels of an image, (H, W, C), uint8."""
        with Image.open(path) as image:
            image = ImageOps.exif_transpose(image)
            if image.mode.startswith(('I', 'F')):
                image = _as_8_bits(image)
            mode = 'RGB' if self.input['channels'] == 3 else 'L'
            pixels = np.asarray(image.convert(mode))
        pixels = pixels.reshape(*pixels.shape[:2], self.input['channels'])
        size = self.input['size']
        if size and list(pixels.shape[:2]) != size:
            raise ValueError(
                f'it has {pixels.shape[0]}x{pixels.shape[1]} pixels, the network takes '
                f'{size[0]}x{size[1]}'
            )
        return pixels

    def __call__(self, pixels):
        """Return the probabilities of some images of one size, (N, K)."""
        (name,) = (given.name for given in self.session.get_inputs())
        return self.session.run(None, {name: np.stack(pixels)})[0]

    def ranked(self, probabilities, count):
        """Return the names of the likeliest classes of an image, and their probabilities."""
        best = np.argsort(-probabilities, kind='stable')[:count]
        names = [str(self.classes[number]) if self.classes else str(number) for number in best]
        return list(zip(names, probabilities[best].tolist()))


def _as_8_bits(image):
    """Keep the high bits of 16, as OpenCV does; Pillow would cut off what is above 255."""
    values = np.asarray(image)
    if values.dtype.kind == 'f' or values.max(initial=0) > 65535:
        raise ValueError('its values are no integers of 16 bits')
    return Image.fromarray((values.astype(np.uint16) >> 8).astype(np.uint8))


def find_images(places):
    """List the images in files and folders, without hidden ones."""
    found = []
    for place in map(Path, places):
        if place.is_dir():
            # A link to nowhere is named as what can't be read.
            inside = sorted(path for path in place.rglob('*') if not path.is_dir())
            found += [
                path
                for path in inside
                if path.suffix.lower() in EXTENSIONS
                and not any(part.startswith('.') for part in path.relative_to(place).parts)
            ]
        elif place.is_file():
            found.append(place)
        else:
            raise FileNotFoundError(f'no image and no folder at {place}')
    if not found:
        raise FileNotFoundError(
            f'no image ({", ".join(EXTENSIONS)}) in {", ".join(map(str, places))}'
        )
    return found


def columns(top_k):
    """Return the names of the columns."""
    ranked = [(f'prediction_{rank}', f'confidence_{rank}') for rank in range(2, top_k + 1)]
    pairs = [('prediction', 'confidence'), *ranked]
    return ['image', 'label', *(name for pair in pairs for name in pair), 'fault']


def label(classifier, paths, top_k):
    """Yield a row of :func:`columns` for each image, in order."""
    waiting = []
    for path in paths:
        try:
            pixels = classifier.read(path)
        except Exception as error:
            yield from _rows(classifier, waiting, top_k)
            waiting = []
            yield [path, '', *[''] * 2 * top_k, f'{type(error).__name__}: {error}']
            continue
        most = min(classifier.at_once, max(1, PIXELS // (pixels.shape[0] * pixels.shape[1])))
        if len(waiting) >= most or (waiting and waiting[0][1].shape != pixels.shape):
            yield from _rows(classifier, waiting, top_k)
            waiting = []
        waiting.append((path, pixels))
    yield from _rows(classifier, waiting, top_k)


def _rows(classifier, waiting, top_k):
    if waiting:
        found = classifier([pixels for _, pixels in waiting])
        for (path, _), probabilities in zip(waiting, found):
            cells = []
            for name, probability in classifier.ranked(probabilities, top_k):
                cells += [name, f'{probability:.6g}']
            yield [path, '', *cells, *[''] * (2 * top_k - len(cells)), '']


def main(arguments=None):
    """Label the images named on the command line."""
    parser = argparse.ArgumentParser(description='Label images with an exported network.')
    parser.add_argument('images', nargs='+', help='images and folders of images')
    parser.add_argument('--out', default='predictions.csv', help='default: predictions.csv')
    parser.add_argument('--overwrite', action='store_true', help='replace --out if it is there')
    parser.add_argument('--top-k', type=int, default=3, help='classes of each image (default: 3)')
    parser.add_argument('--model', help='the .onnx file; by default the one beside this file')
    parser.add_argument('--threads', type=int, default=0, help='default: as many as cores')
    args = parser.parse_args(arguments)
    if os.path.exists(args.out) and not args.overwrite:
        parser.error(f'{args.out} is there already: give another --out, or --overwrite')
    here = Path(__file__)
    model = args.model or here.with_name(here.name.replace('_predict.py', '.onnx'))
    classifier = Classifier(model, args.threads)
    paths = find_images(args.images)
    unreadable = 0
    partial = f'{args.out}.partial'
    with open(partial, 'w', newline='', encoding='utf-8', errors='backslashreplace') as file:
        writer = csv.writer(file)
        writer.writerow(columns(args.top_k))
        for row in label(classifier, paths, args.top_k):
            writer.writerow(row)
            if row[-1]:
                unreadable += 1
                print(f'{row[0]}: {row[-1]}', file=sys.stderr)
    os.replace(partial, args.out)
    print(f'{len(paths) - unreadable} images labelled, {unreadable} unreadable: {args.out}')


if __name__ == '__main__':
    main()
